"""The composition root: settings to built parts, each with a ping and a close. The only place that imports adapters."""
