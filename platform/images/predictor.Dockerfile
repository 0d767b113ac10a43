# The predictor: scores of one bundle version over the Open Inference Protocol.
#
#   make wheels
#   docker build --network none --build-arg BASE_IMAGE=... --file platform/images/predictor.Dockerfile .
#
# BASE_IMAGE has python3 3.11. BUILD_IMAGE has its venv module and pip besides, for the first stage alone.
# Wheels come from build/wheels: no package index is asked while this is built. LOCK=serve-gpu makes the image of runtime
# mlplatform-onnx-gpu: ONNX Runtime with CUDA, and CUDA's libraries, 3 GB; the node has the driver.
ARG BASE_IMAGE
ARG BUILD_IMAGE=${BASE_IMAGE}

FROM ${BUILD_IMAGE} AS build
ARG LOCK=serve
COPY requirements/${LOCK}.txt /build/requirements.txt
COPY build/wheels/${LOCK} /build/wheels
COPY build/wheels/mlplatform /build/mlplatform
RUN ["python3", "-m", "venv", "--without-pip", "/opt/venv"]
RUN ["python3", "-m", "pip", "--python", "/opt/venv/bin/python", "install", "--no-index", "--no-deps", "--no-cache-dir", "--compile", "--require-hashes", "--find-links", "/build/wheels", "--requirement", "/build/requirements.txt"]
RUN ["python3", "-m", "pip", "--python", "/opt/venv/bin/python", "install", "--no-index", "--no-deps", "--no-cache-dir", "--compile", "--find-links", "/build/mlplatform", "mlplatform"]

FROM ${BASE_IMAGE}
COPY --from=build /opt/venv /opt/venv
# The root file system is mounted read-only, so nothing may be written beside the code.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# Numbers, so that a kubelet can tell that this is not root.
USER 65532:65532
WORKDIR /
EXPOSE 8080 8081
ENTRYPOINT ["python", "-m", "mlplatform.process", "predictor"]
