"""Memory of a device: estimates from shapes, a plan, what waits elsewhere, what runs short."""
