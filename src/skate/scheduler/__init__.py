"""The paper's bottom-up distributed scheduler: a local one a node, a global one in the GCS."""
