# Flow runs and fits of models that are fitted with a library of its own lock, on the image of flow runs. It takes that image's
# place in manifests and templates of jobs: both must be one. For a second library, build again on what this gave.
#
#   make wheels build/wheels/train-xgboost/.done
#   docker build --network none --build-arg BASE_IMAGE=mlplatform/flows:... --build-arg BUILD_IMAGE=... --build-arg LOCK=train-xgboost \
#     --file platform/images/train.Dockerfile .
#
# BASE_IMAGE is the image of flow runs; LightGBM needs libgomp1 in it (Debian), XGBoost brings its own, Spark needs Java 17 on its
# PATH (openjdk-17-jre-headless). BUILD_IMAGE has the same Python and pip, for the first stage alone. Wheels, and PySpark's source,
# come from build/wheels: no package index is asked while this is built.
ARG BASE_IMAGE
ARG BUILD_IMAGE

FROM ${BUILD_IMAGE} AS build
ARG LOCK
COPY requirements/${LOCK}.txt /build/requirements.txt
COPY build/wheels/${LOCK} /build/wheels
RUN ["python3", "-m", "pip", "install", "--target", "/opt/train", "--no-index", "--no-deps", "--no-cache-dir", "--compile", "--require-hashes", "--find-links", "/build/wheels", "--requirement", "/build/requirements.txt"]

FROM ${BASE_IMAGE}
COPY --from=build /opt/train /opt/train
ENV PYTHONPATH=/opt/train PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /opt/mlplatform
ENTRYPOINT ["python", "-m", "mlplatform.process", "flow-run"]
