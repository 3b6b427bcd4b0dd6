"""The control plane: operators' verbs over ports, each one audited."""
