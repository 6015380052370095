"""Encoders and corpora: fetched, verified, and turned into token ids."""
