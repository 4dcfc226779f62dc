# The command line in a container: docker build -t llmtunnel . && docker run --rm llmtunnel demo
FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --wheel-dir /wheels .

FROM python:3.13-slim
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels /wheels/llmtunnel-*.whl && \
    useradd --uid 10001 --create-home llmtunnel
USER 10001
WORKDIR /home/llmtunnel
# A line of --json or of the log is written when it is said.
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["llmtunnel"]
CMD ["--help"]
