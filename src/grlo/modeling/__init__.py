"""How models are computed: packed rows, attention, layers, products."""
