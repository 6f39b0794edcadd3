"""The JSON API under /api/v1: docs/plane-api.md, call by call. Bearer tokens only, so that no page can forge a call."""
