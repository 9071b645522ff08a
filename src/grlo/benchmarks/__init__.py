"""Benchmarks by name; each entry is a function without arguments that returns a `Benchmark`."""

BENCHMARKS: dict[str, str] = {
    f"nano_{domain}{suffix}": f"grlo.benchmarks.nano:{domain}{suffix}"
    for domain in ("chat", "instruction_following", "math", "code")
    for suffix in ("", "_dev")
}
