"""Where prompts come from, and in which order a run sees them."""
