"""The gateway's listeners: REST, gRPC, the Open Inference Protocol, and their documents."""
