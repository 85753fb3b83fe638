"""OpenAI's vocabularies: which tokens a text is."""

from __future__ import annotations

from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from bpe_openai._bindings import PyTokenizer

Vocabulary = Literal["o200k_base", "cl100k_base"]


@cache
def tokenizer(name: Vocabulary) -> PyTokenizer:
    """The vocabulary's tokenizer, to which names of special tokens are plain text.

    The first time it takes 0.15 s and 70 MB.
    """
    made: PyTokenizer = _bindings().tokenizer_for_encoding(name)
    return made


@cache
def dictionary(name: Vocabulary) -> Any:
    """The same as a ``bpe_openai.Encoding``, which also takes single tokens apart.

    The first time it takes 1.5 s, and making one copies its tables.
    """
    from bpe_openai import get_encoding

    return get_encoding(name)


def well_formed(text: str) -> str:
    """The text as a tokenizer takes it.

    Half of a surrogate pair, which a cut or JSON may leave, is no text: it becomes a question mark.
    """
    return text.encode(errors="replace").decode()


@cache
def _bindings() -> Any:
    """The compiled part of ``bpe-openai``, without its Python part.

    The latter reads three vocabularies into dictionaries when it is imported, which takes 1.7 s and
    75 MB, and serves to take single tokens apart and to name special ones.
    """
    package = find_spec("bpe_openai")
    assert package is not None, "bpe-openai is among what Flow requires"
    found = PathFinder.find_spec("bpe_openai._bindings", package.submodule_search_locations)
    assert found is not None, "bpe-openai has its compiled part"
    assert found.loader is not None, "a compiled module has a loader"
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module
