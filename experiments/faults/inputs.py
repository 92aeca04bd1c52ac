cases = cache_cases = surroundings = encoders = configs = corpora = lambda lab: []
