// Find the people of a PPM image by an exported model's search.onnx, in ONNX Runtime:
//   search MODEL.onnx IMAGE.ppm
#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

int main(int, char** argv) {
  std::ifstream file(argv[2], std::ios::binary);
  std::string kind;
  int64_t width, height, most;
  file >> kind >> width >> height >> most;
  file.get();
  std::vector<uint8_t> pixels(height * width * 3), image(pixels.size());
  file.read(reinterpret_cast<char*>(pixels.data()), pixels.size());
  for (int64_t i = 0; i < height * width; ++i)
    for (int64_t c = 0; c < 3; ++c)  // RGB, one channel after another
      image[c * height * width + i] = pixels[i * 3 + c];

  Ort::Env env;
  Ort::Session session(env, argv[1], Ort::SessionOptions());
  std::vector<int64_t> shape{1, 3, height, width};
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto input = Ort::Value::CreateTensor<uint8_t>(memory, image.data(), image.size(), shape.data(), 4);
  const char* inputs[] = {"image"};
  const char* outputs[] = {"boxes", "scores", "embeddings"};
  auto found = session.Run(Ort::RunOptions(), inputs, &input, 1, outputs, 3);
  const float* box = found[0].GetTensorData<float>();
  const float* score = found[1].GetTensorData<float>();  // embeddings: (people, D_r), same order
  const int64_t people = found[1].GetTensorTypeAndShapeInfo().GetElementCount();
  for (int64_t i = 0; i < people; ++i, box += 4)
    std::cout << score[i] << ' ' << box[0] << ' ' << box[1] << ' ' << box[2] << ' ' << box[3] << '\n';
}
