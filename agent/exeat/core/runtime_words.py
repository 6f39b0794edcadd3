"""What a runtime says of a container, bounded: the words are those of whoever made the container, or its image."""

from collections.abc import Iterable, Mapping

from exeat.model.identity import Labels

ANSWER_MAX = 1 << 20  # bytes
WITHIN_S = 2.0  # for one container, all questions together
KEY_MAX = 512  # characters; Kubernetes allows 317, Docker any
VALUE_MAX = 1024  # Kubernetes allows 63
NAME_MAX = 512  # of a container, a pod or an image; Kubernetes allows 253, an image's name with its digest has some 330
IMAGES_MAX = 64


def plain_text(said: object, most: int = NAME_MAX) -> str:
    """Empty for what is no text, too long, or cannot be written as UTF-8 (JSON can say half a character).

    Never cut: a beginning might be another's name.
    """
    if not isinstance(said, str) or len(said) > most:
        return ""
    try:
        said.encode()
    except UnicodeEncodeError:
        return ""
    return said


def labels_of(said: object, without: object = None) -> Labels:
    """By name. What cannot be kept is left out, so that no policy selects by it; and what is the same in `without`.

    All others, however many: who adds labels must not drive out the one by which a policy selects.
    """
    if not isinstance(said, Mapping):
        return ()
    others = without if isinstance(without, Mapping) else {}
    kept = [
        (key, value)
        for key, value in said.items()
        if plain_text(key, KEY_MAX) and plain_text(value, VALUE_MAX) == value and others.get(key) != value
    ]
    return tuple(sorted(kept))


def images_of(*said: object) -> tuple[str, ...]:
    """Names of one image, each once; of lists, each in them."""
    names: list[object] = []
    for one in said:
        names += one if isinstance(one, Iterable) and not isinstance(one, str) else [one]
    return tuple(dict.fromkeys(filter(None, map(plain_text, names))))[:IMAGES_MAX]
