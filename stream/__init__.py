"""From events to labelled examples: transport, order in event time, label join. No torch."""
