"""What the verbs are made of: the nouns joined into acts that several verbs share."""
