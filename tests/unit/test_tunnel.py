"""The tunnel watch: what a data carrier's questions look like, and that everyday names do not."""

from base64 import b32encode, urlsafe_b64encode
from collections.abc import Callable
from importlib.resources import files
from itertools import count
from math import log2
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from publicsuffixlist import PublicSuffixList

from exeat.core.tunnel import DOMAINS_MAX, MINUTE_NS, SUFFIX_LABELS_MAX, TunnelWatch, entropy, parted
from exeat.model.policy import TunnelLimits

DEFAULTS = TunnelLimits()
LOOSE = TunnelLimits(names_per_minute=3, label_length=63, entropy=8.0)
LIST = PublicSuffixList()

_EVERYDAY = """
    d1a2b3c4.cloudfront.net d111111abcdef8.cloudfront.net e1234.dscb.akamaiedge.net e86303.dscx.akamaiedge.net
    my-company-production-backups-2026-eu-west-1.s3.eu-west-1.amazonaws.com
    my-very-long-bucket-name-for-terraform-state-files-0123456789.s3.amazonaws.com
    bucket.s3.dualstack.us-east-1.amazonaws.com ec2-203-0-113-25.compute-1.amazonaws.com
    ec2-203-0-113-25.eu-west-1.compute.amazonaws.com ip-10-0-12-34.eu-west-1.compute.internal
    internal-my-alb-1234567890.us-east-1.elb.amazonaws.com mydb.c9akciq32rgq.us-east-1.rds.amazonaws.com
    my-aurora-cluster.cluster-ro-c9akciq32rgq.eu-central-1.rds.amazonaws.com
    my-redis.x7k2f9.ng.0001.use1.cache.amazonaws.com q7w3k1z9ab.execute-api.us-east-1.amazonaws.com
    4f9a1c07be52d8830a6b7e5cf1d29e44.gr7.us-east-1.eks.amazonaws.com 123456789012.dkr.ecr.eu-west-1.amazonaws.com
    b-1.mycluster.a1b2c3.c4.kafka.us-east-1.amazonaws.com secretsmanager.eu-central-1.amazonaws.com sts.amazonaws.com
    kubernetes.default.svc.cluster.local my-service.my-namespace.svc.cluster.local
    api.openai.com.my-namespace.svc.cluster.local _http._tcp.prometheus-operated.monitoring.svc.cluster.local
    prometheus-kube-prometheus-alertmanager.monitoring.svc.cluster.local 10-244-1-37.my-namespace.pod.cluster.local
    argocd-application-controller-metrics.argocd.svc.cluster.local
    mystorageaccount.blob.core.windows.net mystorageaccount.privatelink.blob.core.windows.net
    md-hdd-kq1x0zvw5t2m.z12.blob.storage.azure.net myaks-dns-1a2b3c4d.hcp.westeurope.azmk8s.io
    myaks-dns-1a2b3c4d.6f1d0c2e-8a47-4b0f-9d33-5c02b7e4a9f1.privatelink.westeurope.azmk8s.io
    my-long-application-name-with-slot.azurewebsites.net my-openai-resource-production-westeurope.openai.azure.com
    my-function-app-ehc5fahkc4ehbjd8.westeurope-01.azurewebsites.net my-server.postgres.database.azure.com
    my-container-app.happyriver-1a2b3c4d.westeurope.azurecontainerapps.io adb-1234567890123456.7.azuredatabricks.net
    6f1d0c2e-8a47-4b0f-9d33-5c02b7e4a9f1.ods.opinsights.azure.com my-namespace-production.servicebus.windows.net
    _dmarc.example.com selector1._domainkey.example.com selector1-example-com._domainkey.contoso.onmicrosoft.com
    _xmpp-client._tcp.example.com _ldap._tcp.dc._msdcs.corp.example.com _sip._tls.sipdir.online.lync.com
    _kerberos._udp.default-first-site-name._sites.dc._msdcs.corp.example.com _acme-challenge.www.example.com
    _8e4f759817ca19dd13aed7574c94f4fa.example.com r3---sn-4g5e6nsk.googlevideo.com r4---sn-ajp5qp5uxaxjvh-jwwl.gvt1.com
    rr2---sn-5hne6nzy.c.drive.google.com lh3.googleusercontent.com my-service-q7w3k1z9ab-ew.a.run.app
    us-central1-aiplatform.googleapis.com objects.githubusercontent.com pipelinesghubeus12.actions.githubusercontent.com
    codeload.github.com files.pythonhosted.org registry.npmjs.org cdn-lfs-us-1.huggingface.co cas-bridge.xethub.hf.co
    production.cloudflare.docker.com docker-images-prod.6aa30f8b08e16409b46e0173d6de2f56.r2.cloudflarestorage.com
    1a2b3c4d5e6f.us-east-1.aws.found.io 9f3c07ae51d24b68a0c7e19d5b42f8e3.us-central1.gcp.cloud.es.io
    _mongodb._tcp.cluster0.ab1cd.mongodb.net cluster0-shard-00-00.ab1cd.mongodb.net
    xy12345.eu-central-1.privatelink.snowflakecomputing.com 9f3c07ae51d24b68a0c7e19d5b42f8e3.ingest.sentry.io
    scontent-fra3-1.xx.fbcdn.net instagram.ffra1-2.fna.fbcdn.net xn--bcher-kva.example.com www.example.co.uk
    www.llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch.co.uk
    team-feature-branch-login-page-redesign-git-main-mycompany.vercel.app deploy-preview-1234--my-site-name.netlify.app
    4a7d1ed414474e4033ac29ccb8653d9b.avqs.mcafee.com dynamic-093-129-012-034.93.129.pool.telefonica.de
    keycloak-production-write.identity-management.europe.internal.example.com localhost com co.uk
"""
EVERYDAY = _EVERYDAY.split()

# What the defaults cost: names that are in use, or built like such, and trip. In `report` each is a line to shrug at.
FALSE_ALARMS = {
    "opentelemetry-operator-controller-manager-metrics-service.observability.svc.cluster.local": "57 characters",
    "ae0f3d917c5b4e628f01d7a3b94c6e52-3b8d20f6e97a1c45.elb.us-east-1.amazonaws.com": "49 characters",
    "vpce-0c4f19e27b3d80a56-x9q2kmzt.execute-api.us-east-1.vpce.amazonaws.com": "4.57 bits",
    "search-my-domain-yz3kq5mk2wb7yq3p6hq2vxd4ae.us-east-1.es.amazonaws.com": "4.59 bits",
    "p4-ces3lsyzkvhza-6lnrl7xaxg4e4mb2-if-v6exp3-v4.metric.gstatic.com": "46 characters",
    "ep-cool-darkness-123456.us-east-2.aws.neon.tech": "4.06 bits",
    "customer-portal-backend-green-v2.internal.platform.example.com": "4.04 bits",
}


def everyday(domain: str) -> str:
    """A name like any."""
    return f"www.{domain}"


@pytest.mark.parametrize("name", EVERYDAY)
def test_everyday_names_raise_no_alarm(name: str) -> None:
    """By the defaults."""
    assert TunnelWatch(DEFAULTS).look(name, 0) is None


def test_everyday_names_raise_no_alarm_together() -> None:
    """All within one moment, as when a program starts."""
    watch = TunnelWatch(DEFAULTS)
    assert [name for name in EVERYDAY if watch.look(name, 0)] == []


@pytest.mark.parametrize(("name", "why"), FALSE_ALARMS.items())
def test_what_the_defaults_cost(name: str, why: str) -> None:
    """Known false alarms: whoever changes a definition sees here what it buys."""
    evidence = TunnelWatch(DEFAULTS).look(name, 0)
    assert evidence
    assert why in evidence.why


def _labels(text: str, length: int) -> str:
    return ".".join(text[start : start + length] for start in range(0, len(text), length))


def base32(data: bytes) -> str:
    """As iodine writes by default."""
    return b32encode(data).decode().rstrip("=").lower()


def base64(data: bytes) -> str:
    """As dns2tcp writes, after the gate made it lower-case."""
    return urlsafe_b64encode(data).decode().rstrip("=").lower().replace("-", "0").replace("_", "1")


CARRIERS: dict[str, Callable[[bytes], str]] = {
    "iodine": lambda data: f"0{_labels(base32(data), 57)}.t.example.com",
    "dns2tcp": lambda data: f"{_labels(base64(data), 63)}.t.example.com",
    "dnscat2": lambda data: f"{_labels(data.hex(), 62)}.t.example.com",
    "short labels": lambda data: f"{_labels(base32(data), 36)}.t.example.com",
    "a session cookie at once": lambda data: f"{base32(data[:20])}0123456789.example.com",
}


@pytest.mark.parametrize("carrier", CARRIERS.values(), ids=CARRIERS)
def test_a_data_carrier_is_seen_at_its_first_question(carrier: Callable[[bytes], str]) -> None:
    """By its labels, when it fills them; for nine of ten random messages at least, because chance has its share."""
    random = Random(3)
    names = [carrier(random.randbytes(80)) for _ in range(200)]
    assert all(len(name) <= 253 for name in names)
    found = [evidence for name in names if (evidence := TunnelWatch(DEFAULTS).look(name, 0))]
    assert len(found) >= 180
    assert {evidence.domain for evidence in found} == {"example.com"}


@pytest.mark.parametrize("label", ["{:x}", "n{}", "word-{}", "a.b.c.{}"])
def test_a_data_carrier_of_short_labels_is_seen_by_its_haste(label: str) -> None:
    """The hundred-and-first name in a minute; the hundredth is anybody's."""
    watch = TunnelWatch(DEFAULTS)
    found = [watch.look(f"{label.format(number)}.example.com", number) is not None for number in range(150)]
    assert found == [False] * 100 + [True] * 50


def test_evidence_is_told_in_a_sentence() -> None:
    """With every sign that was seen, and the name."""
    watch = TunnelWatch(TunnelLimits(names_per_minute=2, label_length=10, entropy=3.0))
    name = "abcdefghijklmnopqrstuvwxyz.example.com"
    assert watch.look("www.example.com", 0) is None
    assert watch.look("example.com", 0) is None
    evidence = watch.look(name, 1)
    assert evidence
    assert (evidence.domain, evidence.sample) == ("example.com", name)
    assert str(evidence) == (
        "example.com: more than 2 names in a minute, a label of 26 characters, 4.70 bits a character, "
        "as in abcdefghijklmnopqrstuvwxyz.example.com"
    )


def test_the_same_names_again_are_no_new_ones() -> None:
    """A program that resolves before each connect is no tunnel."""
    watch = TunnelWatch(LOOSE)
    names = ["a.example.com", "b.example.com", "c.example.com"]
    for moment in range(100):
        assert watch.look(names[moment % 3], moment) is None
    assert watch.look("d.example.com", 100)


def test_a_minute_slides() -> None:
    """A name counts until it was not asked for during a whole minute, and evidence is told as long as it lasts."""
    watch = TunnelWatch(LOOSE)
    for second, name in enumerate(["a", "b", "c"]):
        assert watch.look(f"{name}.example.com", second) is None
    assert watch.look("d.example.com", MINUTE_NS - 1)
    assert watch.look("d.example.com", MINUTE_NS - 1)
    assert watch.look("d.example.com", MINUTE_NS) is None
    assert watch.look("b.example.com", MINUTE_NS) is None
    assert watch.look("e.example.com", MINUTE_NS)


def test_a_name_counts_from_when_it_was_asked_last() -> None:
    """Of those before it, the minute may be over."""
    watch = TunnelWatch(LOOSE)
    for moment, name in ((0, "a"), (1, "b"), (1, "c"), (MINUTE_NS - 1, "a")):
        assert watch.look(f"{name}.example.com", moment) is None
    assert watch.look("d.example.com", MINUTE_NS + 1) is None


def test_each_domain_counts_for_itself() -> None:
    """Ten hosts of ten companies are no tunnel to any."""
    watch = TunnelWatch(LOOSE)
    for number in range(10):
        assert watch.look(f"www.example{number}.com", number) is None
        assert watch.look(f"host{number}.s3.amazonaws.com", number) is None  # each bucket is somebody's own
    for number in range(3):
        assert watch.look(f"n{number}.example.com", 10) is None
    assert watch.look("n3.example.com", 10)


@pytest.mark.parametrize(
    ("limits", "name", "beyond"),
    [
        (TunnelLimits(label_length=10, entropy=8.0), "a" * 10, "a" * 11),
        (TunnelLimits(label_length=63, entropy=4.0), "0123456789abcdef" * 2, "0123456789abcdefg" * 2),
        (TunnelLimits(label_length=63, entropy=1.0), "abcdefghijklmnopqrs", "abcdefghijklmnopqrst"),
    ],
)
def test_a_limit_itself_is_not_beyond_it(limits: TunnelLimits, name: str, beyond: str) -> None:
    """And nineteen characters are too few to be called random."""
    assert TunnelWatch(limits).look(f"x.{name}.example.com", 0) is None
    assert TunnelWatch(limits).look(f"x.{beyond}.example.com", 0)


def test_what_is_remembered_is_bounded() -> None:
    """Names by the limit, domains by number; and a domain is forgotten after a minute."""
    watch = TunnelWatch(DEFAULTS)
    for number in range(5000):
        watch.look(f"n{number}.example.com", 0)
        watch.look(f"www.example{number}.com", 0)
    assert len(watch._domains) <= DOMAINS_MAX
    assert max(len(domain.asked_ns) for domain in watch._domains.values()) == DEFAULTS.names_per_minute + 1
    watch.look("www.example.org", MINUTE_NS)
    assert set(watch._domains) == {"example.org"}


def test_a_domain_in_use_is_remembered_however_many_others_there_are() -> None:
    """What was asked about longest ago is forgotten first."""
    watch = TunnelWatch(LOOSE)
    others = count()
    for number in range(3):
        assert watch.look(f"n{number}.example.com", 0) is None
        for _ in range(DOMAINS_MAX - 1):
            watch.look(everyday(f"other{next(others)}.com"), 0)
    assert watch.look("n3.example.com", 0)
    for _ in range(DOMAINS_MAX):
        watch.look(everyday(f"other{next(others)}.com"), 0)
    assert watch.look("n4.example.com", 0) is None


def test_no_public_suffix_has_more_labels_than_are_looked_at() -> None:
    """Otherwise a longer one would be taken for a registered domain."""
    lines = files("publicsuffixlist").joinpath("public_suffix_list.dat").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line.strip() and not line.startswith("//")]
    assert len(rules) > 5000
    assert max(rule.count(".") + 1 for rule in rules) < SUFFIX_LABELS_MAX


SUFFIXES = st.sampled_from(
    ["com", "co.uk", "ck", "www.ck", "s3.amazonaws.com", "compute.amazonaws.com", "kawasaki.jp", "city.kawasaki.jp"]
) | st.sampled_from(["github.io", "local", "xn--p1ai", "xn--55qx5d.cn", "amazonaws.com", "compute-1.amazonaws.com"])


@given(st.lists(st.sampled_from(["a", "www", "com", "co", "x-1"]), max_size=40), SUFFIXES)
def test_a_name_is_parted_as_the_public_suffix_list_says(front: list[str], suffix: str) -> None:
    """The domain and what stands before it make up the name."""
    name = ".".join([*front, suffix])
    domain, labels = parted(name)
    assert ".".join([*labels, domain]) == name
    assert domain == (LIST.privatesuffix(name) or name)


@given(st.text(max_size=300))
def test_any_text_can_be_looked_at(name: str) -> None:
    """What asks may write what it wants."""
    TunnelWatch(DEFAULTS).look(name, 0)


@given(st.text(min_size=1, max_size=100))
def test_entropy_lies_between_one_character_and_all_different(text: str) -> None:
    """And does not depend on their order."""
    bits = entropy(text)
    assert -1e-9 <= bits <= log2(len(text)) + 1e-9
    assert abs(bits - entropy(text[::-1])) < 1e-9
