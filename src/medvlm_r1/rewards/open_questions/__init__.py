"""Scoring of answers to open questions (questions without options): normalization, synonyms and rules."""
