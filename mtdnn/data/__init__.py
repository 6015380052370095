"""Encoders and corpora: how they are fetched, verified and turned into token ids."""
