"""Parse, check and complete the CloudEvents of request bodies."""
