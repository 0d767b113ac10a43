"""Topics: durable, partitioned streams of messages, read by groups that remember their offsets."""
