"""The campaign: many random interruptions, damages and wrong inputs; each trial is right, or it is named.

Run by hand or nightly: `make campaign`. A small part of it runs in `make test` (tests/test_campaign.py).
"""
