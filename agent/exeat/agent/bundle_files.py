"""The last good bundle on disk: with it a node enforces at once after a restart, whether the plane is there or not.

    manifest                    the plane's own message, signature and all
    documents/REVISION          each policy's text

Documents are written before the manifest that names them, and removed after it: whatever breaks in between, the
manifest that is there has its documents. It is verified again when it is read.
"""

import errno
import os
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from google.protobuf.message import DecodeError

from exeat.agent.bundles import Bundle, PushRefused, open_manifest, read_documents
from exeat.agent.trust import Trust
from exeat.v1 import plane_pb2 as pb
from exeat.whole_files import write_whole

_STAYS = "its workloads stay as they are until the plane sends it anew"


@dataclass(frozen=True, slots=True)
class Kept:
    """What was found. Neither bundle nor complaint: there never was one."""

    bundle: Bundle | None = None
    complaint: str = ""  # what of it cannot be believed any more


class BundleFiles:
    """One directory."""

    def __init__(self, directory: Path) -> None:
        self._manifest = directory / "manifest"
        self._documents = directory / "documents"
        self._there: set[str] = set()  # revisions that were seen on disk, as they should be

    def save(self, bundle: Bundle) -> None:
        """Once it is enforced. Raises OSError; the bundle before is there then."""
        self._documents.mkdir(mode=0o700, parents=True, exist_ok=True)
        for document in bundle.documents:
            path = self._documents / document.revision
            if document.revision in self._there and path.exists():
                continue
            if document.text is None:
                raise FileNotFoundError(errno.ENOENT, f"the document of policy {document.name} was removed", path)
            write_whole(path, document.text.encode(), is_synced=True)
            self._there.add(document.revision)
        _sync(self._documents)
        write_whole(self._manifest, bundle.signed.SerializeToString(), is_synced=True)
        _sync(self._manifest.parent)
        wanted = {document.revision for document in bundle.documents}
        for path in self._documents.iterdir():
            if path.name not in wanted:
                self._there.discard(path.name)
                path.unlink(missing_ok=True)

    def load(self, node: str, trust: Trust) -> Kept:
        """Believes what it would believe of a plane now, but for the time: what has expired stays in force."""
        try:
            signed = pb.Signed.FromString(self._manifest.read_bytes())
            manifest = open_manifest(signed, node, trust)
        except FileNotFoundError:
            return Kept()
        except (OSError, DecodeError, PushRefused) as error:
            return Kept(complaint=f"{self._manifest}: what the plane sent last cannot be used: {error}; {_STAYS}")
        texts, lost = self._texts_of(manifest)
        present = pb.Manifest(policies=[one for one in manifest.policies if one.revision in texts])
        documents, faults = read_documents(present, {}, texts)
        bad = [*lost, *(fault.text for fault in faults)]
        complaint = (
            f"{self._documents}: of what the plane sent last, not all can be used: {bad[0]}; {_STAYS}" if bad else ""
        )
        bundle = Bundle(signed, manifest.serial, manifest.expires.ToNanoseconds(), documents, time.time_ns())
        return Kept(bundle, complaint)

    def _texts_of(self, manifest: pb.Manifest) -> tuple[dict[str, str], list[str]]:
        texts, lost = {}, []
        for one in manifest.policies:
            try:
                raw = (self._documents / one.revision).read_bytes()
                if sha256(raw).hexdigest() != one.revision:
                    lost.append(f"policy {one.name} was altered")
                else:
                    texts[one.revision] = raw.decode()
            except (OSError, UnicodeDecodeError) as error:
                lost.append(f"policy {one.name} is missing ({error})")
        return texts, lost


def _sync(directory: Path) -> None:
    """So that the names in it outlive a loss of power."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
