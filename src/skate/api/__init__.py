"""The paper's application layer: what a user touches."""
