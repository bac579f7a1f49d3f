// Find the people of a PPM image by an exported model's search.onnx, in OpenVINO:
//   search MODEL.onnx IMAGE.ppm
#include <cstdint>
#include <fstream>
#include <iostream>
#include <openvino/openvino.hpp>
#include <vector>

int main(int, char** argv) {
  std::ifstream file(argv[2], std::ios::binary);
  std::string kind;
  size_t width, height, most;
  file >> kind >> width >> height >> most;
  file.get();
  std::vector<uint8_t> pixels(height * width * 3);
  file.read(reinterpret_cast<char*>(pixels.data()), pixels.size());

  ov::Tensor image(ov::element::u8, {1, 3, height, width});
  for (size_t i = 0; i < height * width; ++i)
    for (size_t c = 0; c < 3; ++c)  // RGB, one channel after another
      image.data<uint8_t>()[c * height * width + i] = pixels[i * 3 + c];

  ov::Core core;
  auto request = core.compile_model(argv[1], "CPU", ov::hint::inference_precision(ov::element::f32))
                     .create_infer_request();
  request.set_tensor("image", image);
  request.infer();
  const float* box = request.get_tensor("boxes").data<float>();
  auto scores = request.get_tensor("scores");  // embeddings: (people, D_r), in the same order
  for (size_t i = 0; i < scores.get_size(); ++i, box += 4)
    std::cout << scores.data<float>()[i] << ' ' << box[0] << ' ' << box[1] << ' ' << box[2] << ' '
              << box[3] << '\n';
}
