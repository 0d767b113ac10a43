"""The services for applications: the gateway, the predictors behind it, and the worker of
asynchronous requests.

Packages from the ground up: `protos`; `admission` and `predictor`; `predictor_client`; `arms` and
`key_claims`; `request`; `labels`, `pushes` and `rankings`; `explanations`; `api`; `gateway` and
`worker`. `wiring` makes the adapters that this area and those above have in common. Imports
`rollouts`, `learning`, `decisions`, `model` and `runtime`.
"""
