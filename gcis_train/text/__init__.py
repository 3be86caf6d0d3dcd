"""Text embeddings of prompts."""
