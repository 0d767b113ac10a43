# The flow runner: one run of a flow as a job of Prefect's Kubernetes work pool, MLflow, Prefect's own processes and the page;
# with `--entrypoint mlplatform` and `up`, the whole platform on one machine (compose.yaml).
#
#   make wheels
#   docker build --network none --build-arg BASE_IMAGE=... --file platform/images/flows.Dockerfile .
#
# Backups (docs/backup.md) run in an image of their own name, mlplatform/backup, which is this on a BASE_IMAGE that also has
# PostgreSQL's client programs (Debian: postgresql-client), of the server's release or a later one.
# BASE_IMAGE has python3 3.11. BUILD_IMAGE has its venv module and pip besides, for the first stage alone.
# Wheels come from build/wheels: no package index is asked while this is built.
ARG BASE_IMAGE
ARG BUILD_IMAGE=${BASE_IMAGE}

FROM ${BUILD_IMAGE} AS build
COPY requirements/flows.txt /build/requirements.txt
COPY build/wheels/flows /build/wheels
COPY build/wheels/mlplatform /build/mlplatform
RUN ["python3", "-m", "venv", "--without-pip", "/opt/venv"]
RUN ["python3", "-m", "pip", "--python", "/opt/venv/bin/python", "install", "--no-index", "--no-deps", "--no-cache-dir", "--compile", "--require-hashes", "--find-links", "/build/wheels", "--requirement", "/build/requirements.txt"]
RUN ["python3", "-m", "pip", "--python", "/opt/venv/bin/python", "install", "--no-index", "--no-deps", "--no-cache-dir", "--compile", "--find-links", "/build/mlplatform", "mlplatform", "mlplatform-client"]
RUN ["mkdir", "--mode", "0700", "/build/home"]

FROM ${BASE_IMAGE}
COPY --from=build /opt/venv /opt/venv
# A new volume mounted here belongs to the image's user.
COPY --from=build --chown=65532:65532 /build/home /var/lib/mlplatform
COPY flows /opt/mlplatform/flows
# The root file system is mounted read-only, so nothing may be written beside the code.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# Numbers, so that a kubelet can tell that this is not root.
USER 65532:65532
WORKDIR /opt/mlplatform
ENTRYPOINT ["python", "-m", "mlplatform.process", "flow-run"]
