"""Rollout engines by name; each is the settings dataclass that builds it."""

ENGINES: dict[str, str] = {
    "hf": "grlo.engines.hf:HFEngineSettings",
    "vllm": "grlo.engines.vllm:VLLMEngineSettings",
    "vllm_server": "grlo.engines.vllm_server:VLLMServerEngineSettings",
}
