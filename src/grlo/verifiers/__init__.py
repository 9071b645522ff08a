"""Verifiers by name; each is the settings dataclass whose `build(context=...)` makes one."""

VERIFIERS: dict[str, str] = {
    "math": "grlo.verifiers.math:MathSettings",
    "choice": "grlo.verifiers.choice:ChoiceSettings",
    "code": "grlo.verifiers.code:CodeSettings",
    "instructions": "grlo.verifiers.instructions:InstructionSettings",
    "grid": "grlo.verifiers.grid:GridSettings",
    "function": "grlo.verifiers.function:FunctionSettings",
    "ray": "grlo.verifiers.on_ray:RayVerifierSettings",
    "nano": "grlo.nano.grading:NanoSettings",
}
