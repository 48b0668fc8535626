"""The stages of an event in a listener: order, claim, identities, queue, attempt, end, cursor."""
