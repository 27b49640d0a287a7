"""Fuzzing of what reads bytes from outside: `make fuzz` (docs/supply-chain.md).

A target is a function that takes any bytes and raises where a promise is broken; it knows nothing of the fuzzer. `make
fuzz` runs each under Atheris (libFuzzer, guided by coverage), `tests/unit/test_fuzz.py` runs a short version.
"""
