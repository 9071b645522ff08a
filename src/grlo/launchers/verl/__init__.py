"""verl (HybridFlow, Sheng et al. 2024, arXiv 2409.19256): the same recipe on many nodes.

`expression` says what verl can be told of a recipe, `exporting` writes that down, `process` starts
it. `agent_loop` and `reward` are called by verl's workers (the only modules that import it), and
`scoring` holds our reward there. `importing` and `converting` bring back what verl has left.
"""

SUPPORTED = ("0.9.1",)
"""Versions of verl whose configuration, loaders and reward loop the tests run against."""
