"""Pure measures: tensors in, figures out."""
