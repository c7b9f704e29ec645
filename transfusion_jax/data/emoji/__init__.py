"""Emoji scenes: artwork with exact captions, questions and edits."""
