"""What one GPU does in each phase of a step; `bench/gpu.py` runs the sections and sums up.

Needs torch and transformers and nothing else; vLLM is measured where it is installed.
"""
