"""The listener's HTTP API and its OpenAPI document."""
