# The code and what it needs to run on TPUs:
#
#   docker build --tag=IMAGE . && docker push IMAGE
#
# launch/README.md says where it is used. The packages come first, so that a change of
# the code alone leaves their layer as it is.
FROM python:3.12-slim

WORKDIR /transfusion
ENV PYTHONUNBUFFERED=1

COPY setup.py README.md ./
COPY transfusion_jax/__init__.py transfusion_jax/
RUN pip install --no-cache-dir --editable '.[tpu,text,data]'

COPY . .
CMD ["python", "-m", "transfusion_jax.train", "--help"]
