"""Array operations without parameters: spans, attention, rotary embedding, losses."""
