"""Pure scores, mixtures and pickers: logits in; scores, masks or positions out."""
