"""Features by models of Hugging Face's transformers, from folders on this machine."""
