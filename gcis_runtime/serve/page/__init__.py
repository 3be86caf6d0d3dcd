"""The page of the service: submit a CT, watch its job, and look at the result slice by slice."""
