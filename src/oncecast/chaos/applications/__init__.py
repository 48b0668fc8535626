"""Applications for `oncecast chaos --app`: stock, a chain of follow-ups, accounts in order."""
