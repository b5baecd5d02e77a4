"""The paper's application layer: the API for users."""
