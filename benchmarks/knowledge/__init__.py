"""What knowledge gives a sparse scene, and what a refresh costs: parts of `knowledge_lift`."""
