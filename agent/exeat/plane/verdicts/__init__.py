"""Verdicts: taken in once each, counted, watched live, asked for, grouped into denials."""
