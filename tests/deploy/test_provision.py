"""vagrant/provision.sh on a bare Debian: it brings what `make setup` starts from, once, and exeat then works there."""

import re
import sys
from collections.abc import Iterator

import pytest

from deploy.deb_root import REPOSITORY
from deploy.provision_root import PYTHON, Root, open_root

PROVISION = "vagrant/provision.sh"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    """A root in which nobody has done anything yet."""
    with open_root(tmp_path_factory.mktemp("provision")) as root:
        yield root


@pytest.fixture(scope="module")
def provisioned(bare: Root) -> Root:
    """The same root, provisioned. What was missing before is asserted, so that this is no test of nothing."""
    missing = [bare.run("sh", "-c", f"command -v {program}", check=False).returncode for program in ("make", "git")]
    assert missing == [127, 127]
    assert mounted(bare) == []
    bare.run(PROVISION)
    return bare


def mounted(root: Root) -> list[str]:
    """The kinds of the file systems that exeat needs, as often as they are mounted."""
    table = root.run("cat", "/proc/self/mountinfo").stdout
    return sorted(re.findall(r" - (bpf|cgroup2) ", table))


def packages(variable: str) -> list[str]:
    """A list of packages of the Makefile."""
    found = re.search(rf"^{variable} := (.*)$", (REPOSITORY / "Makefile").read_text(), re.M)
    assert found
    return found[1].split()


def test_what_make_setup_starts_from_is_there(provisioned: Root) -> None:
    """make reads the Makefile, git tells what is in a folder of somebody else's, both file systems are mounted."""
    assert "make setup" in provisioned.run("make", "help").stdout
    assert "bpf/enforcer.c" in provisioned.run("git", "ls-files").stdout.splitlines()
    assert mounted(provisioned) == ["bpf", "cgroup2"]
    assert provisioned.run("getent", "hosts", "localhost").stdout


def test_a_second_run_changes_nothing(provisioned: Root) -> None:
    """It asks no archive, mounts nothing a second time and touches no file."""
    before = provisioned.files()
    said = provisioned.run(PROVISION).stdout
    assert "installing" not in said
    assert provisioned.files() == before
    assert mounted(provisioned) == ["bpf", "cgroup2"]


def test_who_is_not_root_is_told(provisioned: Root) -> None:
    """And nothing is installed halfway."""
    done = provisioned.run("setpriv", "--reuid=1000", "--clear-groups", PROVISION, check=False)
    assert done.returncode == 1
    assert "sudo" in done.stderr


def test_a_package_may_be_missing_from_the_archive_only_where_that_is_said(provisioned: Root) -> None:
    """As Ubuntu has no Chromium. What was found beside it is installed."""
    install = "packaging/install-packages.sh"
    said = provisioned.run(install, "no-such-package?", "hostname", "diffstat").stdout
    assert "not in this archive: no-such-package\n" in said
    assert provisioned.run("diffstat", "-V").stdout
    assert provisioned.run(install, "no-such-package", check=False).returncode == 100


@pytest.mark.skipif(
    f"{sys.version_info.major}.{sys.version_info.minor}" != PYTHON, reason=f"this is not Python {PYTHON}"
)
def test_exeat_works_there(provisioned: Root) -> None:
    """With the packages that the Makefile names for it, and no others: its programs compile, load, attach."""
    provisioned.run("packaging/install-packages.sh", *packages("RUNTIME_PACKAGES"))
    exeat = ("python3", "-m", "exeat.cli.main")
    told = provisioned.run(*exeat, "doctor", PYTHONPATH="/exeat/agent:/site", check=False)
    assert told.returncode == 0, told
    assert re.search(r"^ok +program on_message +loads", told.stdout, re.M), told
