"""An identity as it is kept on disk: what `asdict` makes of it, as JSON."""

from typing import Any

from exeat.model.identity import Container, Identity, Labels, Pod


def read_identity(kept: Any) -> Identity:
    """What was kept. Raises ValueError or TypeError for anything else."""
    container, pod = kept["container"], kept["pod"]
    return Identity(
        _container(**container) if container is not None else None, _pod(**pod) if pod is not None else None
    )


def _container(
    *,
    runtime: str,
    id: str,
    name: str,
    image: str,
    images: Any,
    labels: Any,
    doubtful: Any = (),  # noqa: A002
) -> Container:
    names = tuple(map(_text, images))
    return Container(_text(runtime), _text(id), _text(name), _text(image), names, _labels(labels), _labels(doubtful))


def _pod(*, namespace: str, name: str, uid: str, labels: Any) -> Pod:
    return Pod(_text(namespace), _text(name), _text(uid), _labels(labels))


def _labels(kept: Any) -> Labels:
    return tuple((_text(key), _text(value)) for key, value in kept)


def _text(kept: Any) -> str:
    if not isinstance(kept, str):
        raise TypeError(f"{type(kept).__name__} is no text")
    return kept
