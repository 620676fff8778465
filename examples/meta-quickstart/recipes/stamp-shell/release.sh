echo "VERSION=1.0"
echo "BUILD_ID=$(date +%Y%m%d%H%M%S)"
