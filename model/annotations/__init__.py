"""Annotated pictures: the formats they come in, one form for all, and what may be wrong with them.

Needs the ``train`` extra.
"""
