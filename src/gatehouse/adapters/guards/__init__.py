"""Rule packs and classifiers that guards ask."""
