"""Who is calling: principals, tokens, tickets."""
