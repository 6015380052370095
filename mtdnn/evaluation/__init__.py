"""From a trained model to scores: predictions, decoding, SQuAD metrics, results."""
