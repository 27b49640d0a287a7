"""One target under Atheris, for some seconds or until a promise is broken: `python -m tests.fuzz.engine TARGET 60`.

The corpus stays in `.fuzz/TARGET`, so that the next run goes on from it; an input that breaks a promise is beside it,
and `python -m tests.fuzz.engine TARGET FILE` runs it again.
"""

import sys
from hashlib import sha1
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Final

import atheris

from tests.fuzz.target import Target

TARGETS: Final = ("decoder", "scrubbing", "patches", "rules", "tokens", "wire")
DIRECTORY: Final = Path(".fuzz")
_LONGEST: Final = 4096
_LONGEST_WORD: Final = 64  # of libFuzzer


def main(name: str, what: str) -> None:
    """Fuzz a target for some seconds, or run one input; ends the process."""
    with atheris.instrument_imports(include=["connectors", "flows", "realtime"], enable_loader_override=False):
        target: Target = import_module(f"tests.fuzz.{name}").TARGET
    corpus = DIRECTORY / name
    corpus.mkdir(parents=True, exist_ok=True)
    dictionary = DIRECTORY / f"{name}.dict"
    dictionary.write_text("".join(map(_entry, target.words())))
    options = ["-timeout=30", "-rss_limit_mb=2048", f"-artifact_prefix={DIRECTORY}/{name}-"]
    if what.isdigit():
        for seed in target.seeds():
            (corpus / sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
        options += [f"-max_total_time={what}", f"-max_len={_LONGEST}", f"-dict={dictionary}"]
        options += ["-print_final_stats=1", str(corpus)]
    else:
        options.append(what)

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        random = Random(seed)
        if target.mutate is None or random.random() < 0.5:
            return bytes(atheris.Mutate(data, longest))
        return target.mutate(data, random)[:longest]

    atheris.Setup([name, *options], target.check, custom_mutator=mutate)
    atheris.Fuzz()


def _entry(word: bytes) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' if 0 < len(word) <= _LONGEST_WORD else ""


if __name__ == "__main__":
    main(*sys.argv[1:])
